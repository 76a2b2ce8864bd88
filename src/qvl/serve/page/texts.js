// The words of the interface in its two languages. An element says which it shows: data-text (its content), data-label
// (its name for screen readers and its tooltip), data-placeholder; data-value stands where the words have {}.

const KEPT = "qvl-language";
const TEXTS = {
  en: {
    new: "New chat",
    otherLanguage: "中文",
    language: "Language",
    settings: "Settings",
    welcome: "Show a picture.\nAsk what is where.",
    how: "Drop pictures anywhere, paste them, or choose them below. Or try one of these:",
    conversation: "Conversation",
    tray: "Pictures for the next question",
    choose: "Choose pictures",
    question: "Your question",
    placeholder: "Ask about a picture",
    send: "Send",
    stop: "Stop",
    keys: "Enter sends, Shift + Enter makes a new line",
    drop: "Drop the pictures here",
    removePicture: "Remove picture",
    temperature: "Temperature",
    temperatureHelp: "0 always takes the likeliest word, which is best for boxes.",
    maxTokens: "Longest answer, in tokens",
    maxTokensDefault: "as the server has it",
    keyTitle: "This server asks for a key",
    keyLabel: "API key",
    keyWhy: "It is kept in this tab until you close it.",
    keyRefused: "The server did not accept that key.",
    keyUse: "Use the key",
    cancel: "Cancel",
    picture: "Picture {}",
    box: "box {}",
    looking: "Looking …",
    copy: "Copy",
    copied: "Copied",
    again: "Ask again",
    edit: "Edit",
    stopped: "Stopped.",
    length: "The answer reached its longest length; the settings can allow more.",
    nothing: "No answer came.",
    unreadable: "{} can't be read as a picture.",
    onlyFiles: "Only picture files can be dropped here: save the picture first.",
    errorNetwork: "The server can't be reached, or the connection broke.",
    errorBusy: "The server is busy. Wait a moment, then ask again.",
    errorLarge: "The pictures are too large for the server. Take some away, or start a new chat.",
    errorKey: "The server needs a key.",
    errorContext: "The conversation no longer fits the model. Start a new chat.",
    errorRefused: "The server did not accept the question.",
    errorServer: "Something went wrong in the server.",
  },
  zh: {
    new: "新对话",
    otherLanguage: "English",
    language: "语言",
    settings: "设置",
    welcome: "放一张图，\n问问什么在哪里。",
    how: "把图片拖进来、粘贴，或在下方选择。也可以先试试这些：",
    conversation: "对话",
    tray: "下一个问题的图片",
    choose: "选择图片",
    question: "你的问题",
    placeholder: "问问图里的内容",
    send: "发送",
    stop: "停止",
    keys: "回车发送，Shift + 回车换行",
    drop: "把图片放在这里",
    removePicture: "移除图片",
    temperature: "温度",
    temperatureHelp: "0 表示总取最可能的词，画框时最合适。",
    maxTokens: "回答最长的词元数",
    maxTokensDefault: "按服务器的设置",
    keyTitle: "服务器需要密钥",
    keyLabel: "API 密钥",
    keyWhy: "只保存在这个标签页里，关闭后即清除。",
    keyRefused: "服务器没有接受这个密钥。",
    keyUse: "使用密钥",
    cancel: "取消",
    picture: "图 {}",
    box: "框 {}",
    looking: "正在看 …",
    copy: "复制",
    copied: "已复制",
    again: "重新回答",
    edit: "修改",
    stopped: "已停止。",
    length: "回答已达到最长长度，可以在设置中放宽。",
    nothing: "没有得到回答。",
    unreadable: "{} 无法作为图片读取。",
    onlyFiles: "这里只能放图片文件：请先保存图片。",
    errorNetwork: "连接不到服务器，或连接中断了。",
    errorBusy: "服务器正忙，请稍等片刻再试。",
    errorLarge: "图片对服务器来说太大了。请去掉几张，或开始新对话。",
    errorKey: "服务器需要密钥。",
    errorContext: "对话已超出模型的长度，请开始新对话。",
    errorRefused: "服务器没有接受这个问题。",
    errorServer: "服务器出了问题。",
  },
};

let language = localStorage.getItem(KEPT) ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export const currentLanguage = () => language;

/** The words of a key in the current language. */
export function text(key, value = "") {
  return TEXTS[language][key].replace("{}", value);
}

/** Show every element under root in the current language. */
export function translate(root) {
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text, node.dataset.value);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.title = text(node.dataset.label, node.dataset.value);
    node.setAttribute("aria-label", node.title);
  }
  for (const node of root.querySelectorAll("[data-placeholder]")) node.placeholder = text(node.dataset.placeholder);
}

/** Change to the other language, and remember it. */
export function switchLanguage() {
  language = language === "en" ? "zh" : "en";
  localStorage.setItem(KEPT, language);
}
